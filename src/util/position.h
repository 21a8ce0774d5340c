/*-------------------------------------------------------------------------
 *
 * position.h
 *	  Snapshot positions of this server.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REHOME_POSITION_H
#define REHOME_POSITION_H

extern char *rehome_position_of_active(void);
extern char *rehome_position_now(void);
extern void rehome_position_flush(void);

#endif							/* REHOME_POSITION_H */
