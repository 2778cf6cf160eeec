"""Answers to what a reader asks while reading: runs, masks, texts, made by one worker process and kept.

`worker` does the work in a process of its own, so that a notebook stays free, loads no torch, and can stop it;
`runs` are jobs of the study's store, watched as they go; `answers` keeps everything else in the cache by what was asked
(`masks`, `texts`). The tables go to the explorers of `present`, which know nothing of this room. `trial` is a model and
a text for who has none of their own at hand.
"""
