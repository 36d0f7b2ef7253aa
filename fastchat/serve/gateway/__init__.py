"""The front door of a site: an nginx in front of pages and API servers."""
