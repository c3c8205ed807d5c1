package main

import "testing"

func hostileConnections(t *testing.T) {}
func hostileScrape(t *testing.T)      {}
func hostilePush(t *testing.T)        {}
