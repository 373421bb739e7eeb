"""From a model and cases to numbers: the protocol and the baselines that stand beside every result."""
