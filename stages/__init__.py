"""What is done to a cell, in order: download, read, align, normalize, cluster, train, classify, score, draw.

Every module here is a leaf: it imports nothing of ours and is handed a model, an array or an axis. Only the readers
share parts (read imports read_hdf5, read_text, matrix and names), and the report is a package of its own parts.
"""
