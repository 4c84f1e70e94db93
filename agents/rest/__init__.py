"""ReST: grow a data set from the policy's own samples, improve on its best part."""
