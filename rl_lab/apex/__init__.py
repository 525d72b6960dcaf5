"""Distributed acting and replay on Ray, in the manner of Ape-X (Horgan et al. 2018, arXiv 1803.00933).

Actors play and send what they saw straight to shards of a prioritized replay; one learner draws batches from all
shards, sends priorities back and hands out weights. `processes` and `cluster` alone know Ray.
"""
