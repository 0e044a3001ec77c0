"""What tests of several tiers share: namespaces, packets, cases."""
