/*-------------------------------------------------------------------------
 *
 * state.h
 *	  The states of a slice and the transitions between them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REHOME_STATE_H
#define REHOME_STATE_H

typedef enum RehomeState
{
	REHOME_PLANNED,
	REHOME_COPYING,
	REHOME_SYNCING,
	REHOME_CUTTING_OVER,
	REHOME_CUT_OVER,
	REHOME_ROLLING_BACK,
	REHOME_COMPLETED,
	REHOME_CANCELLED
} RehomeState;

typedef enum RehomeAuthority
{
	REHOME_SOURCE,
	REHOME_TARGET,
	REHOME_NONE
} RehomeAuthority;

extern const char *rehome_state_name(RehomeState state);
extern RehomeState rehome_state_parse(const char *name);
extern const char *rehome_authority_name(RehomeAuthority authority);
extern RehomeAuthority rehome_authority_parse(const char *name);

extern bool rehome_state_may(RehomeState from, RehomeState to);
extern RehomeAuthority rehome_state_authority(RehomeState state);
extern char *rehome_state_calls(RehomeState from, bool live);

#endif							/* REHOME_STATE_H */
