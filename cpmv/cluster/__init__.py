"""Many machines through Ray: a batch on Ray Data, a server behind Ray Serve. Thin; scheduling is Ray's."""
