"""What is wrong with rules as such: proven for all packets, whoever sends them."""
