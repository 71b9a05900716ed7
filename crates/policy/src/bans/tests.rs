//! Base and overlay against a list of what they say together.
