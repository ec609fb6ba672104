"""Fit a model to a budget: the least damaging sparsity with which it is fast enough on a target, measured there.

    subject, evaluation   what is fitted, what a configuration makes of it, and how that is judged
    sweep                 jobs over processes or a Ray cluster; results on disk, so that an interruption loses none
    search                tables of cost and damage, knapsack, trials that are built and measured, and what else could be done
    page                  the result for people
"""
from edgekit.fitting.fit import fit

__all__ = ["fit"]
