"""What a person reads about finished runs: a page with plots, and tables that compare methods."""
