"""Questions asked of rulesets and snapshots: what happens to a packet, and what is wrong. Pure."""
