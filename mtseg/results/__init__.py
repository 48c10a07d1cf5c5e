"""What runs amount to: tables, plots and pages."""
