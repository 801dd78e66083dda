"""The ledger: what has been verified of every network, how, and against what."""
