"""The engine process: started, fed by its socket, stepped by one thread."""
