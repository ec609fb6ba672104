"""The demo: two networks trained in a small simulator of edgekit's own, pruned, compiled, judged by what they do there."""
