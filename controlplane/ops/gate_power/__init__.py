"""How often gates stop bad versions and good ones: measured by simulation, beside two peers."""
