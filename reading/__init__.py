"""From a file to log1p of genes in one spelling: download, open, name, align, normalize. Imports nothing but files."""
