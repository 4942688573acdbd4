//! `tidegate doctor`: each fault is made for real, and found in words, with its code and its fix.

mod fixture;
mod nodes;
mod registries;
mod together;
mod writes;
