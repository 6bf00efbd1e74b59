"""From prepared inputs to answers: how tokens are chosen (`sampling`, `beam`) and the plain loop (`generate`)."""
