#include "textflag.h"

// func prefetch(at *uintptr, n int)
TEXT ·prefetch(SB), NOSPLIT, $0-16
	MOVQ at+0(FP), SI
	MOVQ n+8(FP), CX
	JMP  check

next:
	MOVQ       (SI), AX
	PREFETCHT0 (AX)
	ADDQ       $8, SI
	DECQ       CX

check:
	CMPQ CX, $0
	JGT  next
	RET

// func prefetchToWrite(at *uintptr, n int)
TEXT ·prefetchToWrite(SB), NOSPLIT, $0-16
	MOVQ at+0(FP), SI
	MOVQ n+8(FP), CX
	JMP  check

next:
	MOVQ (SI), AX
	BYTE $0x0f; BYTE $0x0d; BYTE $0x08 // PREFETCHW (AX), which does nothing on processors without it
	ADDQ $8, SI
	DECQ CX

check:
	CMPQ CX, $0
	JGT  next
	RET
