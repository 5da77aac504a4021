"""What the pipeline does, a room per concern; a room imports only rooms before it."""
