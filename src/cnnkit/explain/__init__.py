"""What is inside a network and what it sees."""
