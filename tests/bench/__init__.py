"""Measurements: what the mesh costs beside bare grpcio, in one run, interleaved, as ratios.

Absolute times on a shared machine say little; the ratio of two variants that took turns in the same minute
says what one costs more than the other. `make bench` prints the tables that the README quotes.
"""
