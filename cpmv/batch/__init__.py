"""Many inputs through the engine: where they come from, the journal that survives a kill, the run, the results."""
