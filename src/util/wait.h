/*-------------------------------------------------------------------------
 *
 * wait.h
 *	  Waiting for time to pass.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REHOME_WAIT_H
#define REHOME_WAIT_H

extern void rehome_pause_for(long ms);
extern void rehome_back_off(int attempt);
extern void rehome_limit_lock_waits(long ms);

#endif							/* REHOME_WAIT_H */
