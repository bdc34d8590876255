"""Pure translations between OpenAI's JSON and ``ernie_wire``: no sockets, no clocks, no state."""
