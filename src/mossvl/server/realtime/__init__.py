"""Live sessions over WebSocket: two protocols without input and output, and the connections that carry them."""
