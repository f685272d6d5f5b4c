//! What every log must do, as cases that run against any implementation.
