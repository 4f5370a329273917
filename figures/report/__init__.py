"""`gsgd report`: all recorded results on one page of HTML that needs nothing but a browser."""
