"""The method, in its order: reduce, cluster, direct, train, classify, score, draw. Leaves: handed arrays, no nouns."""
