"""What is done to a cell, in order: download, (simulate), read, align, normalize, cluster, train, score, plot.

Every module here is a leaf: it imports nothing of ours and is handed a model, an array or an axis.
"""
