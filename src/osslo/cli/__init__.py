"""The osslo command: thin commands over the layers below."""
