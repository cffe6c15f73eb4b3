//! One list of metrics and span names; everything that can be counted or timed is declared here, once.
