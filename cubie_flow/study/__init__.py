"""A study: what it is, what its store will hold, what it will take, and running it."""
