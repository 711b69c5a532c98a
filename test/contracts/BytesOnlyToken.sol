// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.20;

import {TestToken} from "./TestToken.sol";

/// A token that takes an authorization's signature as bytes only.
contract BytesOnlyToken is TestToken {
    constructor(string memory name_, string memory version_) TestToken(name_, version_) {}

    function transferWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes memory signature
    ) external {
        require(!authorizationState[from][nonce], "BytesOnlyToken: authorization is used or canceled");
        _authorize(from, to, value, validAfter, validBefore, nonce, signature);
        authorizationState[from][nonce] = true;
        emit AuthorizationUsed(from, nonce);
        _transfer(from, to, value);
    }
}
