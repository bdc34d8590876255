"""HTTP/1.1: connections and their deadlines, disconnects, and work that the event loop does not wait for."""
