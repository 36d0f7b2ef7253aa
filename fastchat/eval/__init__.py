"""The pipeline of 2023: answers, reviews in pairs, totals, and a static page to read them."""
