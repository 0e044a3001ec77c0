"""The walk for all packets at once; z3 is loaded when something is asked."""
