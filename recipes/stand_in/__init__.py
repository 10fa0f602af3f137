"""The stand-in's own recipe: its training data, its training run and its evaluation."""
