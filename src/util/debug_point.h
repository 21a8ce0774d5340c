/*-------------------------------------------------------------------------
 *
 * debug_point.h
 *	  Named places in the code at which a test can stop or break a session.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REHOME_DEBUG_POINT_H
#define REHOME_DEBUG_POINT_H

/* Advisory lock (classid, objid) on which the action "wait" waits. */
#define REHOME_DEBUG_LOCK_CLASS 0x5248
#define REHOME_DEBUG_LOCK_OBJECT 1

extern void rehome_debug_point(const char *name);

#endif							/* REHOME_DEBUG_POINT_H */
