package main

import "testing"

func hostileCredentials(t *testing.T) {}
func hostileLimits(t *testing.T)      {}
func hostileConnections(t *testing.T) {}
func hostileOpen(t *testing.T)        {}
func hostileScrape(t *testing.T)      {}
func hostilePush(t *testing.T)        {}
