"""Local HTTP for Hugging Face tools and the web page."""
