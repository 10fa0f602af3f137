"""One turn: render, generate, parse; one stream of events that every protocol adapts."""
