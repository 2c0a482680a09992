"""A client of the broker's HTTP API: operations as values, and two clients that send them."""
