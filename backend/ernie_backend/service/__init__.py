"""The engine process: started by the stub, fed by its socket, stepped by one thread."""
