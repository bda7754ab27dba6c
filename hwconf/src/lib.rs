//! What the machine is: cores, links, queues, offloads, namespaces.
