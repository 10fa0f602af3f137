"""The web console: pages made on the server, small scripts of our own, nothing from outside."""
