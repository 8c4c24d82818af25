"""Write the bodies of responses and reports."""
