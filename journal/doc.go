// Package journal keeps what was accepted until the state that it led to has
// been saved, so that nothing acknowledged is lost when the process ends in
// whatever way. It knows nothing of samples: a [Record] is bytes and the decision
// about them, and a checkpoint is pieces of bytes that its owner makes.
//
// The engine is NATS JetStream, in this process by default: one stream, in the
// order of which everything is replayed, and an object store with the two latest
// checkpoints. A checkpoint holds what all records up to some sequence led to; the
// stream keeps what follows the older of the two. So a journal's size depends on the
// rate and the window between checkpoints, never on how long a client wants to be
// remembered. With a [Cluster] both are in an external one, shared by several relays,
// each of which follows the stream.
package journal
