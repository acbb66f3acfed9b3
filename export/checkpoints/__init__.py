"""Readers of the published checkpoint layouts; each fills a torch module and leaves nothing unused."""
