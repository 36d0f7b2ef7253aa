"""Commands that look at what the web server logged and at what people voted."""
