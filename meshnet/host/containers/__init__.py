"""Containers and pods: what each runtime of the node knows, one module a source."""
